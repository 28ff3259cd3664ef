"""Roles, their messages and the channels between them. Import it as ``vfl.protocols``."""

if __name__ != "vfl.protocols":
    raise ImportError("import this package as vfl.protocols: two copies of one class do not compare equal")
