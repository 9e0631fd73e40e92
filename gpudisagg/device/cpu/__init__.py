"""The cpu device: PTX compiled to native code through LLVM."""
