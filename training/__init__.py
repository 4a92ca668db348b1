"""The engine that every modality shares: pure steps over a mesh, checkpoints, records. It knows neither text nor pixels."""
