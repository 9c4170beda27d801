"""A function: handle() answers every request below the function's address."""


def handle(req):
    """Return the request's body, in capitals.

    req is the body as text (as bytes when the environment variable RAW_BODY
    is true); what is returned is the answer's body.
    """
    return req.upper()
