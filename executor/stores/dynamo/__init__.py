"""Runs in DynamoDB, their messages in SQS, their large values in S3."""
