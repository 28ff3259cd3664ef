"""Pure mathematics: no party, no file, no socket. Import it as ``vfl.crypto``."""

if __name__ != "vfl.crypto":
    raise ImportError("import this package as vfl.crypto: two copies of one class do not compare equal")
