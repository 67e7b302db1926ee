"""A reverse proxy on one's own host that makes an unmodified HTTP server's connections migratable: `mtcp sidecar`."""
