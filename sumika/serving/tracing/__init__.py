"""OpenTelemetry's traces of requests, by gateway and engines, where a collector's address is set. Nothing of what users say."""
