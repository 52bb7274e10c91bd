from .core cimport arenas
