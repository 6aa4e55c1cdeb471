"""The Kubernetes objects of a Workspace. Pure: a Workspace and a pod in, manifests out.

Every object is owned by its Workspace, carries the labels by which it is found again, and has a
name that follows from the Workspace's, so that making it twice is making it once.

job.py, serving.py   what runs a pod to its end, and what serves; config_map.py: what each is told
pod_template.py      the pod itself: containers.py, with volumes.py and paths.py
several_nodes.py     how the pods of one Job find each other
owned.py             what all objects have in common: naming.py, labels.py
pod_settings.py      what an installation says of its pods
"""
