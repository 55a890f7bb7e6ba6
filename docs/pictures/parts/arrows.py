"""Heads of the arrows in pictures that are written as SVG."""


def head(colour: str) -> str:
    """Return the definition of a marker, to which `marker-end="url(#head)"` refers; `colour` is a name of style.py."""
    return (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="var(--{colour})"/></marker></defs>'
    )
