"""Readers of sections: AnnData, HEST-1k, Space Ranger, Visium HD, SpatialData, legacy ST."""
