"""Plots as SVG, readable on light and dark ground."""
import html
import math

COLOURS = {'evb': '#d9480f', 'ovs': '#1971c2', 'ovs-sleep': '#74c0fc', 'testpmd': '#2f9e44', 'bridge': '#868e96',
           'stock': '#9c36b5', 'copy': '#ced4da'}
_STYLE = ('text{font:12px sans-serif;fill:#222}.axis{stroke:#888}.title{font-weight:bold}.minor{fill:#666}'
          '@media(prefers-color-scheme:dark){text{fill:#ddd}.minor{fill:#aaa}}')
_WIDTH = 720


def _text(x, y, words, extra=''):
    return f'<text x="{x:.0f}" y="{y:.0f}" {extra}>{html.escape(words)}</text>'


def _svg(height, title, parts):
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" role="img">'
            f'<title>{html.escape(title)}</title><style>{_STYLE}</style>')
    return '\n'.join([head, _text(8, 18, title, 'class="title"'), *parts, '</svg>\n'])


def bars(title, groups, names):
    """Groups of bars, `{group: {key: (value, label)}}`. The longest bar of a group is as long as the plot is wide."""
    parts, y = [], 40
    for group, values in groups.items():
        parts.append(_text(8, y, group))
        longest = max(value for value, _ in values.values())
        for key, (value, label) in values.items():
            y += 18
            width = 420 * value / longest
            parts.append(_text(190, y, names[key], 'text-anchor="end" class="minor"'))
            parts.append(f'<rect x="198" y="{y - 11:.0f}" width="{width:.1f}" height="13" fill="{COLOURS[key]}"/>')
            parts.append(_text(204 + width, y, label))
        y += 28
    return _svg(y, title, parts)


def lines(title, series, names, x_name):
    """A line for each series, `{key: [(x, y), ...]}`; x is drawn logarithmically, y from 0 on."""
    left, right, top, bottom = 48, 500, 40, 300
    points = [point for line in series.values() for point in line]
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    most = max(y for _, y in points)
    step = 10 ** math.floor(math.log10(most))
    step = next(part * step for part in (0.2, 0.5, 1, 2) if most / (part * step) <= 6)

    def at(x, y):
        along = math.log(x / low) / math.log(high / low)
        return left + along * (right - left), bottom - y / most * (bottom - top)
    parts = [f'<path class="axis" fill="none" d="M{left} {top}V{bottom}H{right}"/>']
    for n in range(int(most / step) + 1):
        _, y = at(low, n * step)
        parts.append(_text(left - 6, y + 4, f'{n * step:g}', 'text-anchor="end" class="minor"'))
    for x in sorted({x for x, _ in points}):
        parts.append(_text(at(x, 0)[0], bottom + 18, f'{x}', 'text-anchor="middle" class="minor"'))
    parts.append(_text((left + right) / 2, bottom + 36, x_name, 'text-anchor="middle"'))
    below = top
    # Names beside the ends of the lines, apart enough to be read.
    for key, line in sorted(series.items(), key=lambda item: -item[1][-1][1]):
        path = 'L'.join('{:.1f} {:.1f}'.format(*at(*point)) for point in line)
        parts.append(f'<path fill="none" stroke="{COLOURS[key]}" stroke-width="2" d="M{path}"/>')
        x, y = at(*line[-1])
        below = max(y + 4, below + 16)
        parts.append(_text(x + 8, below, names[key], f'style="fill:{COLOURS[key]}"'))
    return _svg(bottom + 48, title, parts)
