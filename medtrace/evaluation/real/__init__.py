"""Translation of real heads of persons that were not trained on."""
