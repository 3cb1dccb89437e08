"""A document of headings, text, tables and pictures, written as HTML or PDF."""

from medtrace.report.document.blocks import Block, CellTable, Document, Grade, Heading, Items, Picture, Text
from medtrace.report.document.page import document_html
from medtrace.report.document.paper import document_pdf

__all__ = [
    "Block",
    "CellTable",
    "Document",
    "Grade",
    "Heading",
    "Items",
    "Picture",
    "Text",
    "document_html",
    "document_pdf",
]
