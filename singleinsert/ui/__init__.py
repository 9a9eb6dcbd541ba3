"""The page: from a photo to files for A1111, ComfyUI and diffusers in a browser. It views files and starts workers.

``python -m singleinsert ui`` serves it. It owns no run: what it shows is read from the folder's files, what it is asked
is written there (drafts, lists of jobs, requests to stop), and a worker of ``python -m singleinsert batch --watch``,
detached, does the work. docs/ui.md says why it is plain HTML on the standard library's server.
"""
