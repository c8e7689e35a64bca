"""Twelve freely licensed photographs for demonstrations and tests; `LICENSES.md` names their authors."""
