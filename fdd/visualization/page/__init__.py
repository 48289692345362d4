"""What the HTML report is put together from: style and script as text, parts as HTML, rows with
their pictures. All of it is Python source: there is no package data to lose in a wheel, and nothing
for the page to load.
"""
