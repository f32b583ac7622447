"""The container image that every component runs in; `pipelines/compile.py --image` puts another in its place."""

IMAGE = "mvqkd:0.1.0"
