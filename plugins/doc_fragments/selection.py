# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that choose paths below the sources."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  include:
    description:
      - Patterns as rsync reads them, anchored at the source by a leading V(/).
      - If any are given, only paths that one of them matches, or that lie below such a path, are kept.
    type: list
    elements: str
  exclude:
    description:
      - Patterns as in O(include).
      - Paths that one of them matches, and what lies below, are left out.
    type: list
    elements: str
  exclude_caches:
    description:
      - Leave out the content of directories with a valid C(CACHEDIR.TAG).
      - The default is to keep it.
    type: bool
  exclude_if_present:
    description:
      - Names of files that mark a directory whose content is left out.
    type: list
    elements: str
  one_file_system:
    description:
      - Stay on the file system of each source.
      - The default is to enter other file systems that are mounted below it.
    type: bool
"""
