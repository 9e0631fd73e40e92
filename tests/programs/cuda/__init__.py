"""CUDA C++ programs as people have them, against numpy and scipy."""
