"""The verbs: started, answered, raised, body ended. Each outcome goes to the sinks, once."""
