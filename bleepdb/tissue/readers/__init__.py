"""Readers of sections: AnnData, Space Ranger, legacy ST."""
