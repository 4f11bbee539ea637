"""Files of the pages `/docs` and `/redoc`: Swagger UI 5.35.0 and Redoc 2.5.4, with their licences.

The files of the two programs are those of their packages `swagger-ui-dist` and `redoc` for npm. Only the
references to source maps are removed. The pages and the two scripts that start the programs are NoETL's.
"""
