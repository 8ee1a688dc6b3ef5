"""Asks Datasette for pages of the file that the build made, without a port."""

import json
import subprocess
import unittest

DATASETTE = [".venv/bin/datasette", "serve", "--immutable", "unicode.db", "--metadata", "metadata.json"]


def get(path):
    page = subprocess.run([*DATASETTE, "--get", path], check=True, capture_output=True, text=True)
    return page.stdout


class Pages(unittest.TestCase):
    def test_a_character_is_found_by_its_name(self):
        path = "/unicode/characters.json?_search=greek+small+omega&_shape=array&_sort=code_point"
        found = json.loads(get(path))
        self.assertEqual([row["character"] for row in found][:1], ["ω"])

    def test_a_row_shows_its_category_in_words(self):
        self.assertIn("currency symbol", get("/unicode/characters?code_point=8364"))

    def test_the_front_page_says_what_it_is(self):
        self.assertIn("Every character that has a name", get("/"))


if __name__ == "__main__":
    unittest.main()
