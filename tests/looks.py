"""Looking at a page in a real browser: nothing overlaps, sticks out or is cut off.

With ``FLUX_SCREENSHOTS=FOLDER`` there are pictures, for people who want to look.
"""

from __future__ import annotations

import os
from pathlib import Path

from browser import Tab

SHOTS = os.environ.get("FLUX_SCREENSHOTS")

MISPLACED = """
(() => {
  const found = [];
  const frame = [innerWidth, innerHeight];
  if (document.documentElement.scrollWidth > innerWidth) found.push('the page is wider than the window');
  const scope = document.querySelector('dialog[open]') ?? document.body;
  const parts = 'button, input, textarea, select, h1, h2, td, dt, dd, .pill, .avatar, .badge, .bubble, .row-name';
  for (const element of scope.querySelectorAll(parts)) {
    const box = element.getBoundingClientRect();
    if (!box.width || !box.height) continue;
    const style = getComputedStyle(element);
    if (style.clipPath !== 'none') continue;
    const name = element.getAttribute('aria-label') ?? element.innerText ?? element.name;
    if (box.left < -1 || box.right > innerWidth + 1) found.push(`${name}: outside at the side`);
    const y = box.y + box.height / 2;
    const middle = document.elementFromPoint(box.x + box.width / 2, Math.min(Math.max(y, 0), innerHeight - 1));
    const area = element.closest('.log, .scroll, .dialog-body, .sign')?.getBoundingClientRect();
    const insight = y > (area?.top ?? 0) && y < (area?.bottom ?? innerHeight);
    if (insight && middle && !element.contains(middle) && !middle.contains(element)) {
      found.push(`${name}: covered by ${middle.className || middle.tagName}`);
    }
    if (element.matches('button') && element.scrollWidth > element.clientWidth + 2) found.push(`${name}: cut`);
  }
  return found;
})()
"""


def check_looks(tab: Tab, name: str) -> None:
    """Everything on a page is where it should be, once nothing moves any more."""
    tab.js(
        "Promise.all(document.getAnimations().map((animation) =>"
        " animation.effect.getTiming().iterations === Infinity ? 0 : animation.finished.catch(() => 'cancelled')))"
    )
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        tab.screenshot(Path(SHOTS) / f"{name}.png")
    assert tab.js(MISPLACED) == [], name
