"""Homes and shared folders, made as root: what `qhub-ensure-dirs` is.

Standard library only, and nothing of the rest of the package: `qhub-identity install-folders`
writes these modules into one file that root owns, for sudo. Requests come as JSON lines on standard
input (`verbs`), settings from a file that only root may write (`settings`), and every folder is
reached part by part from descriptors, never by a path that somebody else could change (`opening`).
"""
