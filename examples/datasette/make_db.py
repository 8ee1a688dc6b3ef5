"""Makes unicode.db out of the Unicode character database that comes with Python."""

import contextlib
import pathlib
import sqlite3
import sys
import unicodedata

CATEGORIES = {
    "Lu": "upper-case letter", "Ll": "lower-case letter", "Lt": "title-case letter",
    "Lm": "modifier letter", "Lo": "other letter", "Mn": "non-spacing mark",
    "Mc": "spacing mark", "Me": "enclosing mark", "Nd": "decimal digit", "Nl": "letter number",
    "No": "other number", "Pc": "connector", "Pd": "dash", "Ps": "opening punctuation",
    "Pe": "closing punctuation", "Pi": "initial quote", "Pf": "final quote",
    "Po": "other punctuation", "Sm": "mathematical symbol", "Sc": "currency symbol",
    "Sk": "modifier symbol", "So": "other symbol", "Zs": "space", "Zl": "line separator",
    "Zp": "paragraph separator", "Cf": "format character",
}

SCHEMA = """
CREATE TABLE categories (code TEXT PRIMARY KEY, meaning TEXT NOT NULL);
CREATE TABLE characters (
    code_point INTEGER PRIMARY KEY,
    hex TEXT NOT NULL,
    character TEXT NOT NULL,
    name TEXT NOT NULL,
    category TEXT NOT NULL REFERENCES categories (code),
    decomposition TEXT NOT NULL
);
CREATE VIRTUAL TABLE characters_fts USING fts5 (name, content="characters");
"""


def characters():
    """Every character with a name of its own; ideographs are only numbered, and left out."""
    for code_point in range(sys.maxunicode + 1):
        character = chr(code_point)
        name = unicodedata.name(character, "")
        if not name or name.startswith(("CJK ", "HANGUL SYLLABLE ", "TANGUT ")):
            continue
        yield (
            code_point,
            f"U+{code_point:04X}",
            character,
            name,
            unicodedata.category(character),
            unicodedata.decomposition(character),
        )


def make(path):
    pathlib.Path(path).unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(SCHEMA)
        database.executemany("INSERT INTO categories VALUES (?, ?)", CATEGORIES.items())
        database.executemany("INSERT INTO characters VALUES (?, ?, ?, ?, ?, ?)", characters())
        database.execute("CREATE INDEX by_category ON characters (category)")
        database.execute(
            "INSERT INTO characters_fts (rowid, name) SELECT code_point, name FROM characters"
        )
        database.commit()
        database.execute("VACUUM")
        count = database.execute("SELECT count(*) FROM characters").fetchone()[0]
    print(f"{path}: {count} characters of Unicode {unicodedata.unidata_version}")


if __name__ == "__main__":
    make("unicode.db")
