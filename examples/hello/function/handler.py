"""Greets whoever calls."""


def handle(event, context):
    """Answer with a greeting for the name in the body."""
    name = event.body.decode("utf-8", "replace").strip() or "world"
    return {"statusCode": 200, "body": {"message": f"Hello, {name}!"}}
