"""A server under load: mixed requests at rates up to its saturation, or any number of them one after another."""
