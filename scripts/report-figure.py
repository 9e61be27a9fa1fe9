#!/usr/bin/env python3
"""Writes one figure of a page that pdtrim made as an SVG file of its own.

    scripts/report-figure.py pdtrim-out/report.html "Token perplexity" --output perplexity.svg

Without a title it lists the titles of the page's figures. The drawing, its legend and its colours, for light and for
dark screens, are the page's; the file has a ground of its own, so it can be read on any other.
"""

import argparse
import re
import sys
from pathlib import Path

MARGIN = 16
HEADING = 24
ROW = 20
SWATCH = 24
CHARACTER = 6.8  # mean width at 12 px
GAP = 18
FONT = 'font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif;'


def figures(page):
    """Title to the source of each figure of the page."""
    found = re.findall(r"<figure>.*?</figure>", page, re.S)
    return {re.search(r"<h3>(.*?)</h3>", figure, re.S).group(1): figure for figure in found}


def style(page):
    """The page's colours, for both schemes, and its rules for drawings."""
    sheet = re.search(r"<style>(.*?)</style>", page, re.S).group(1)
    light = re.search(r":root \{.*?\n\}", sheet, re.S).group(0)
    dark = re.search(r"@media \(prefers-color-scheme: dark\) \{.*?\n\}", sheet, re.S).group(0)
    lines = sheet[sheet.index("\n.chart {") : sheet.index("\n@media screen")].splitlines()
    rules = [line for line in lines if line and not line.startswith((".chart.narrow", ".swatch"))]
    return "\n".join([light, dark, f"svg {{ {FONT} fill: var(--ink); overflow: visible; }}", *rules])


def legend(figure, width):
    """The legend's swatches and names in rows, and how many rows they take."""
    entries = re.findall(r"<li>(<svg.*?</svg>)(.*?)</li>", figure, re.S)
    x, row, parts = 0.0, 0, []
    for swatch, name in entries:
        length = SWATCH + len(name) * CHARACTER
        if x > 0 and x + length > width:
            x, row = 0.0, row + 1
        inner = re.sub(r"^<svg[^>]*>|</svg>$", "", swatch)
        parts.append(f'<g transform="translate({x:.0f} {row * ROW})">{inner}<text x="{SWATCH}" y="11">{name}</text></g>')
        x += length + GAP
    return "\n".join(parts), row + 1 if entries else 0


def drawing(page, title):
    """The SVG file of the figure with this title."""
    figure = figures(page)[title]
    chart = re.search(r'<svg class="chart wide" viewBox="0 0 (\S+) (\S+)".*?</svg>', figure, re.S)
    width, height = float(chart.group(1)), float(chart.group(2))
    textures = re.search(r"<defs>.*?</defs>", page, re.S).group(0)
    names, rows = legend(figure, width)
    top = MARGIN + HEADING + rows * ROW
    whole = (width + 2 * MARGIN, top + height + MARGIN)
    body = chart.group(0).replace('class="chart wide"', f'class="chart" x="{MARGIN}" y="{top}" width="{width:g}" height="{height:g}"')
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole[0]:g} {whole[1]:g}" width="{whole[0]:g}" height="{whole[1]:g}">
<style>{style(page)}</style>
{textures}
<rect class="ground" width="100%" height="100%" rx="6"/>
<text x="{MARGIN}" y="{MARGIN + 12}" style="font-size: 14px; font-weight: 600">{title}</text>
<g transform="translate({MARGIN} {MARGIN + HEADING})">{names}</g>
{body}
</svg>
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("title", nargs="?")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    page = args.page.read_text(encoding="utf-8")
    titles = figures(page)
    if args.title is None:
        print("\n".join(titles))
    elif args.title not in titles:
        sys.exit(f"error: {args.page} has no figure {args.title!r}; it has {', '.join(titles)}")
    elif args.output is None:
        sys.exit("error: --output is missing")
    else:
        args.output.write_text(drawing(page, args.title), encoding="utf-8")


if __name__ == "__main__":
    main()
