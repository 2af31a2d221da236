"""Who may open what behind a reverse proxy: the service that answers Traefik's ForwardAuth.

Traefik asks `/verify` before each request. `readings`, `policy`, `headers`, `cookies` and `pages`
are pure; `sessions` and `keys` keep files; `signing_in` talks to Keycloak; the others are the web
service.
"""

from __future__ import annotations
