"""Raw history beyond the database: messages of past days become Parquet files on a folder or S3, and are read again.

In come the rows of ``messages``; out come segments (files with their records) and tables of records for export and
training. Pure: none of its files.
"""
