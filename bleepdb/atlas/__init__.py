"""The reference atlas: payload codec, manifest, and the exact and embedded stores."""
