"""Find everything that Kubernetes would refuse in an object, before it is sent, each problem with its remedy.

Pure: objects and CustomResourceDefinitions come in as dicts, findings go out. It calls no API and reads no file.
"""
