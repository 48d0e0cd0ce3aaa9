"""Widths of text in figures, independent of the reader's fonts.

Every text element carries its width as `textLength`, so that a browser fits the glyphs of any font to it: what is laid
out with these widths never leaves the figure. The widths are those of Helvetica and Arial, so that common fonts are
changed by a few per cent at most.
"""

import unicodedata

#: {thousandths of an em: characters}, from Adobe's font metrics of Helvetica.
_HELVETICA = {
    191: "'", 222: "ijl", 260: "|", 278: " !,./:;I[\\]ft·", 333: "()-`r", 334: "{}", 355: '"', 389: "*", 469: "^",
    500: "Jcksvxyz", 556: "#$0123456789?L_abdeghnopqu–", 584: "+<=>~−±", 611: "FTZ", 667: "&ABEKPSVXY", 722: "CDHNRUw",
    778: "GOQ", 833: "Mm½", 889: "%", 944: "W", 1000: "…", 1015: "@",
}  # fmt: skip
_WIDTHS = {character: width for width, characters in _HELVETICA.items() for character in characters}
_OTHER, _WIDE = 600, 1000
_BOLD = 1.06  # bold letters are wider

#: Font sizes by class, in units of the figure; figure.css sets the same. The classes in _HEAVY are semibold there.
SIZES = {"head": 14.0, "name": 11.5, "row": 11.5}
SIZE = 11.0
_HEAVY = {"head", "name"}


def ems(words: str, classes: str = "") -> float:
    """Width of `words` in units of their font size."""
    width = sum(_of(character) for character in words) / 1000
    return width * (_BOLD if _HEAVY & set(classes.split()) else 1.0)


def size(classes: str) -> float:
    """Font size of a text element with these classes."""
    return next((SIZES[name] for name in classes.split() if name in SIZES), SIZE)


def width(words: str, classes: str = "") -> float:
    """Width of `words` in units of the figure."""
    return ems(words, classes) * size(classes)


def _of(character: str) -> int:
    if character in _WIDTHS:
        return _WIDTHS[character]
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Cc"):
        return 0
    return _WIDE if unicodedata.east_asian_width(character) in "WF" else _OTHER
