"""A function: handle() answers every request below the function's address."""


def handle(event, context):
    """Greet the caller named by the query (?name=Ada) or by the body.

    event has body (bytes), headers, method, query and path; context has
    hostname. The answer is a dict as below (a dict as its body is sent as
    JSON), or just the body.
    """
    try:
        name = event.query.get("name") or event.body.decode("utf-8").strip()
    except UnicodeDecodeError:
        return {"statusCode": 400, "body": {"error": "the body must be UTF-8 text"}}

    return {
        "statusCode": 200,
        "body": {"message": f"Hello, {name or 'world'}!"},
        "headers": {"Content-Type": "application/json"},
    }
