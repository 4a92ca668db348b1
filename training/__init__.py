"""The engine that every modality shares: pure steps over a mesh, checkpoints, records. It knows no text and no pixels."""
