from s3pool.api import ListEntry as ListEntry
from s3pool.api import Pool as Pool
from s3pool.api import connect as connect
from s3pool.errors import S3PoolError as S3PoolError

__version__: str
