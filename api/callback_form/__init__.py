"""The form of a callback's link: the pages of a browser, without a script and without credentials."""
