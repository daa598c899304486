"""`/v1/files`, `/v1/batches` and `/v1/fine_tuning/jobs`: what is uploaded, what is asked overnight, and what is trained."""
