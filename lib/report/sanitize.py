"""What a notebook's HTML may bring into a page: text, tables and embedded pictures. Never code."""

import nh3

TAGS = nh3.ALLOWED_TAGS | {"tfoot"}
ATTRIBUTES = {
    **{f"h{level}": {"id"} for level in range(1, 7)},
    "a": {"href"},
    "img": {"src", "alt", "width", "height"},
    "td": {"colspan", "rowspan", "style"},
    "th": {"colspan", "rowspan", "style"},
}


def clean(html: str) -> str:
    """`html` without what could run, load something or lead outside: scripts, styles, handlers, outside addresses."""
    return nh3.clean(
        html,
        tags=TAGS,
        clean_content_tags={"script", "style"},
        attributes=ATTRIBUTES,
        attribute_filter=_attribute,
        url_schemes={"data"},
        filter_style_properties={"text-align"},
        link_rel=None,
    )


def _attribute(tag: str, name: str, value: str) -> str | None:
    if name == "src":
        return value if value.startswith("data:image/") else None
    if name == "href":
        return value if value.startswith("#") else None
    return value
