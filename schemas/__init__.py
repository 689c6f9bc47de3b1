"""JSON Schemas and the Arrow schema of the formats that bleepdb writes. Data only."""
