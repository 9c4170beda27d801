"""The function under measurement: what was sent comes back."""


def handle(event, context):
    return {"statusCode": 200, "body": event.body}
