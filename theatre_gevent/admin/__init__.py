"""The admin server: JSON, metrics, health and a dashboard over HTTP. It knows a host by `view.HostView` alone."""
