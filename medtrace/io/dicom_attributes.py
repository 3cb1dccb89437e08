"""The attributes of a source image that its derived objects inherit, by DICOM keyword."""

PATIENT = [
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientSex",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "EthnicGroup",
    "PatientComments",
    "QualityControlSubject",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsiblePersonRole",
    "ResponsibleOrganization",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
]
"""Patient and Clinical Trial Subject modules."""

STUDY = [
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "ReferringPhysicianIdentificationSequence",
    "StudyID",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "ReferencedStudySequence",
    "ProcedureCodeSequence",
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PregnancyStatus",
    "Occupation",
    "AdditionalPatientHistory",
    "PatientSexNeutered",
    "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
]
"""General Study, Patient Study and Clinical Trial Study modules."""

SERIES = ["BodyPartExamined", "AnatomicalOrientationType", "Laterality"]
"""General Series, as far as it is about the body."""

TEXT = ["SpecificCharacterSet", "TimezoneOffsetFromUTC"]
"""How to read the others."""

MAY_BE_EMPTY = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "Laterality",
]
"""Type 2: present, if empty, even where the source lacks them."""

FRAME = ["FrameOfReferenceUID", "PositionReferenceIndicator"]
"""Frame of Reference module."""

ACQUISITION = [
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionDateTime",
    "AcquisitionNumber",
    "BurnedInAnnotation",
    "RecognizableVisualFeatures",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "ContrastBolusAgent",
    "ContrastBolusRoute",
]
"""General Image and Contrast, as far as it is about how the source was acquired and stored."""

MR = [
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "MRAcquisitionType",
    "SequenceName",
    "RepetitionTime",
    "EchoTime",
    "EchoTrainLength",
    "InversionTime",
    "FlipAngle",
    "MagneticFieldStrength",
    "ImagingFrequency",
    "ImagedNucleus",
    "NumberOfAverages",
    "TriggerTime",
]
"""MR Image module."""

MR_MAY_BE_EMPTY = ["ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"]
"""Type 2 of the MR Image module."""

CT = [
    "KVP",
    "ConvolutionKernel",
    "ScanOptions",
    "ReconstructionDiameter",
    "XRayTubeCurrent",
    "ExposureTime",
    "FilterType",
]
"""CT Image module."""
