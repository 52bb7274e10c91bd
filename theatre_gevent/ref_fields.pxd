from . cimport direct
