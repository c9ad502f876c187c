"""Everything that is wrong with an object for Kubernetes, known before anything is sent, each with its remedy.

Pure: objects and CustomResourceDefinitions come in as dicts, findings go out. It calls no API and reads no file.
"""
