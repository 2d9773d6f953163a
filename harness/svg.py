"""Pictures written by hand: the few colours and elements that the project's charts share."""

from html import escape

INK, QUIET, RED, BLUE, GREEN = "#222222", "#dddddd", "#c0392b", "#2c6fbb", "#2e8b57"


def text(x: float, y: float, words: str, size: int = 11, anchor: str = "start", colour: str = INK) -> str:
    where = f'x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}"'
    return f'<text {where} fill="{colour}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, colour: str = QUIET, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'


def picture(width: int, height: float, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{width}" height="{height:.0f}" fill="#ffffff"/>', *parts, "</svg>\n"])
