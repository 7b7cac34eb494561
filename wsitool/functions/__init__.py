"""The functions of `import wsitool` that write a folder: options of the command line in, a result out."""
