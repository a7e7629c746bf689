"""The whole stack of ``template.yaml`` on one machine: ``python -m local``.

``template`` reads the stack, ``gateway`` is its API Gateway, ``storage`` its S3 and DynamoDB,
``server`` the sockets under both, and ``in_process`` puts the deployed handlers between them.
"""
