"""A page to try a classifier in a browser, and the folder of a Hugging Face Space that shows this page."""
