import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.cdi_yaml import BadYaml, read_yaml

# As nvidia-ctk writes it, in both of the styles that its versions have had.
COMPACT = """\
---
cdiVersion: 0.5.0
containerEdits:
  deviceNodes:
  - path: /dev/nvidiactl
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  hooks:
  - args:
    - nvidia-cdi-hook
    - create-symlinks
    - --link
    - ../libnvidia-allocator.so.1::/usr/lib/x86_64-linux-gnu/gbm/nvidia-drm_gbm.so
    hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
  mounts: []
devices:
- containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
      fileMode: 438
  name: "0"
- containerEdits: {}
  name: 'it''s'
kind: nvidia.com/gpu
"""
INDENTED = """\
# written by hand
cdiVersion: 0.5.0
containerEdits:
    deviceNodes:
        - path: /dev/nvidiactl
    env:
        - NVIDIA_VISIBLE_DEVICES=void
    hooks:
        - args:
            - nvidia-cdi-hook
            - create-symlinks
            - --link
            - ../libnvidia-allocator.so.1::/usr/lib/x86_64-linux-gnu/gbm/nvidia-drm_gbm.so
          hookName: createContainer
          path: /usr/bin/nvidia-cdi-hook
    mounts: []

devices:
    - containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
              fileMode: 438
      name: "0"
    - containerEdits: {}
      name: it's
kind: nvidia.com/gpu
"""
CONTENT = {
    "cdiVersion": "0.5.0",
    "containerEdits": {
        "deviceNodes": [{"path": "/dev/nvidiactl"}],
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],
        "hooks": [
            {
                "args": [
                    "nvidia-cdi-hook",
                    "create-symlinks",
                    "--link",
                    "../libnvidia-allocator.so.1::/usr/lib/x86_64-linux-gnu/gbm/nvidia-drm_gbm.so",
                ],
                "hookName": "createContainer",
                "path": "/usr/bin/nvidia-cdi-hook",
            }
        ],
        "mounts": [],
    },
    "devices": [
        {
            "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0", "fileMode": "438"}]},
            "name": "0",
        },
        {"containerEdits": {}, "name": "it's"},
    ],
    "kind": "nvidia.com/gpu",
}


@pytest.mark.parametrize("text", [COMPACT, INDENTED])
def test_both_styles_of_nvidia_ctk_are_read_alike(text: str) -> None:
    assert read_yaml(text) == CONTENT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "---\n",
        "a: &anchor b",
        "a: *anchor",
        "a: !!str b",
        "a: |\n  b",
        "a: >\n  b",
        "a: [b, c]",
        "a: {b: c}",
        'a: "b" c',
        'a: "b',
        "a: 'b",
        "a: b\n  folded",
        "a: b # comment",
        "a: b: c",
        "a: b:",
        "a:\n",
        "a:\nb: c",
        "a: b\na: c",
        "a: b\n- c",
        "- a\nb: c",
        "- a\n  - b",
        "a:\n    b: c\n  d: e",
        "  a: b\nc: d",
        "a:\tb",
        "\ta: b",
        "a: b\n---\na: c",
        "a: b\n...",
        "%YAML 1.2\n---\na: b",
        "? a\n: b",
        "<<: a",
        "-\n  a: b",
        "a: \x1b[2J",
        "a: @b",
        "a: `b",
        "a: ,b",
        "- " * 40 + "a",
        "\n".join(" " * depth + "a:" for depth in range(40)) + " b",
    ],
)
def test_what_is_not_of_the_subset_is_refused(text: str) -> None:
    with pytest.raises(BadYaml):
        read_yaml(text)


keys = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,8}", fullmatch=True)
scalars = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=12)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(keys, inner, min_size=1, max_size=3)
    ),
    max_leaves=12,
)


def write(value: object, indent: int) -> list[str]:
    """Block style, with every string in quotes."""
    lines: list[str] = []
    pad = " " * indent
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str):
                lines.append(f"{pad}{key}: {json.dumps(item)}")
            else:
                lines += [f"{pad}{key}:", *write(item, indent + 2)]
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, str):
                lines.append(f"{pad}- {json.dumps(item)}")
            else:
                first, *rest = write(item, indent + 2)
                lines += [f"{pad}- {first.lstrip(' ')}", *rest]
    return lines


@given(st.lists(trees, min_size=1, max_size=3) | st.dictionaries(keys, trees, min_size=1))
def test_what_is_written_is_read_back(tree: object) -> None:
    assert read_yaml("\n".join(write(tree, 0))) == tree


@given(st.text(st.sampled_from("ab-:# \n\"'{}[]&*|0."), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(BadYaml):
        read_yaml(text)
