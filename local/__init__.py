"""The stack of ``template.yaml`` on one machine: ``python -m local``, or the package gapless-local.

``template`` reads the stack. ``gateway`` is its API Gateway, ``storage`` its S3 and DynamoDB, and
``server`` the HTTP server under both. ``in_process`` connects them to the deployed handlers.
"""
