"""Reference tables: published figures beside what runs here measure, on decoded files."""
