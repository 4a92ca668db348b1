"""Every run and sweep as one Python file with `get_config(arg="")`; its docstring is the exact command."""
